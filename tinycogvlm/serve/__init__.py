"""`tinycogvlm serve`: one model for any client of OpenAI's API, over HTTP."""
