"""HTTP front: turns bytes of clients into `Request`s and `Response`s into bytes. Nothing above it sees a socket.

`message` and `dispatch` are all that the rest of the gateway imports; `server.HttpServer` is wired in by `main`.
Budget of a small request: about 10 us of CPU, no task, one read and one write of the socket.
"""
