"""The client's side: connections, and the requests on them."""
