//! The images that Hull carries in itself: `hello` and `host`.
mod hello;
pub use hello::hello_main;
