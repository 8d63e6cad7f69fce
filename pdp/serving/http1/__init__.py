"""HTTP/1.1 within bounds of time, size and number, by h11 and uvicorn."""
