//! End-to-end tests, one module per behaviour.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, too"
)]

mod addressed;
mod attacks;
mod auth_replicas;
mod auth_rest;
mod auth_rest_hostile;
mod bench;
mod browser;
mod bus_absence;
mod clients;
mod collector;
mod commands;
mod conversations;
mod cookies;
mod dead_letters;
mod decisions;
mod dlq;
mod events;
mod every_event;
mod every_socket_event;
mod expiry;
mod faults;
mod fixtures;
mod fleet;
mod fleet_hostile;
mod fleet_side;
mod fleet_terminal;
mod fleet_world;
mod floods;
mod grpc;
mod grpc_faults;
mod hostile_bytes;
mod ingest;
mod ingest_faults;
mod io;
mod keys;
mod limits;
mod malformed;
mod mesh;
mod mesh_clients;
mod metrics;
mod mutated;
mod openapi;
mod origins;
mod pipeline;
mod planted;
mod publishing;
mod raw;
mod relay;
mod relay_faults;
mod resume;
mod revocation;
mod routers;
mod signed;
mod slow_readers;
mod socketio;
mod socketio_crowds;
mod socketio_recovery;
mod speech;
mod telemetry;
mod threat;
mod trace;
mod unions;
mod unsticky;
mod up;
mod watch;
mod workspace;
