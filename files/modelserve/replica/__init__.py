"""The part that runs inside a replica, in the algorithm's own environment.

Only Ray, orjson, pydantic, python-multipart, starlette and uvicorn exist there.
"""
