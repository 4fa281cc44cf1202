"""What our server is compared with: the same model without a server, and a server as it is usually written."""
