"""What people touch: gateway, protocol, client, command line."""
