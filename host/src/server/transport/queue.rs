//! What a message takes while it waits in the queue of a client.

use std::collections::VecDeque;

/// What it takes besides its bytes.
pub(crate) const PLACE: usize = 208;

/// Below so many places a queue is not worth shrinking.
const SMALL: usize = 64;

/// What a place for a `T` takes: twice its size, because a queue may have twice as many places as it needs; a reference count; and
/// what the allocator adds for both.
pub(crate) const fn place<T>() -> usize {
    2 * size_of::<T>() + 64
}

/// What a message of this length takes, in bytes.
pub(crate) fn takes(length: usize) -> usize {
    PLACE + length
}

/// Gives memory back if the queue has many more places than messages.
pub(crate) fn shrink<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > SMALL && queue.len() < queue.capacity() / 4 {
        queue.shrink_to(2 * queue.len());
    }
}
