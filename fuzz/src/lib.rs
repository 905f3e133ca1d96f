//! Plain models of the parsers, for the fuzz targets to compare the library with.
//!
//! The models are slow and short, build everything, and share no code with the library.

pub mod model;
pub mod tree;
