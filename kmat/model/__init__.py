"""A vision-language model, the prompts it is given, and the features it gives."""
