//! The JSON frames of the dialects, one module per dialect: what clients may
//! send and what they are sent, named from the speaker. Of the dialects over
//! Socket.IO these are the arguments of events; their framing is elsewhere.

pub mod fields;
pub mod fleet;
pub mod mesh;
pub mod pipeline;
pub mod shape;
pub mod socketio;
pub mod threat;
pub mod workspace;
