"""Requests to the Copernicus data stores: what is asked, with which key, how the queue is watched."""
