//! Tests of the GDB server without a client.
