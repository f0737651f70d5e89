//! Tests against the real binary: real sockets, real plugins, real files that are replaced.

mod admin;
mod arriving;
mod auth_token;
mod check;
mod cli;
mod close_codes;
mod config;
mod connect_info;
mod conversation;
mod handshake;
mod limits;
mod longpoll;
mod origins;
mod panics;
mod presence;
mod quarantine;
mod refused;
mod reload;
mod retired;
mod routes;
mod routes_shown;
mod secrets;
mod seeds;
mod slow_consumers;
mod support;
mod transcript;
