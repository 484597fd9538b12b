//! The JSON frames of the dialects, one module per dialect: what clients may
//! send and what they are sent, named from the speaker.

pub mod fields;
pub mod fleet;
pub mod mesh;
pub mod shape;
pub mod threat;
