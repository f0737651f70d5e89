//! Who a client is that comes by a proxy: what trusted proxies say of it.
//!
//! A proxy says it once, at the start of a connection ([`preamble`], the PROXY protocol), or in each request ([`headers`]). What others
//! say, who could be anybody, never counts.

pub(crate) mod headers;
pub(crate) mod preamble;
