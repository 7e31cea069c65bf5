//! What must be durable before what.
