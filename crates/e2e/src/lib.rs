//! End-to-end tests: real processes, real servers, the clients that people
//! use. Everything is in `tests/e2e`, one binary so that it links once.
