//! The NBD protocol: our server, used in front of a protected disk and to serve a point, and a small client.
