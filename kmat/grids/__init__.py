"""Many runs, wherever they are done, and the numbers made of them."""
