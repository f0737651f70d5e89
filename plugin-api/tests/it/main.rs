//! What crosses the boundary, effect by effect. `tests/kit` shows what comes of it for clients.

mod callbacks;
mod life;
mod logging;
mod origins;
mod recorder;
mod spans;
