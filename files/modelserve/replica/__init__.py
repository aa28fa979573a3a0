"""What runs inside a replica, in the algorithm's own environment:
only Ray, orjson, pydantic, starlette and uvicorn exist there."""
