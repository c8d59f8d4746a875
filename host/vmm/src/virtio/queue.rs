//! One pass over a queue, the same for every device core: chain after chain, bounded, with the
//! guest's wish for interrupts honoured. No descriptor and no thread.

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

use crate::Memory;

/// The guest's queue makes no sense; it is not to be touched again until it is set up anew.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A ring says what it cannot say, or lies outside of memory.
    #[error("use the guest's queue")]
    Ring(#[from] virtio_queue::Error),
}

/// What a pass over a queue did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Buffers were used: other work may be possible now.
    pub progress: bool,
    /// The guest wants an interrupt for it.
    pub notify: bool,
    /// The pass ended because a full queue of chains was taken: there may be more.
    pub more: bool,
}

/// What became of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It is done with, and so many bytes were written to it.
    Used(u32),
    /// It was taken, and is given back later.
    Taken,
    /// It stays in the queue, and the pass ends.
    Left,
}

/// A chain of the guest.
pub type Chain<'a> = DescriptorChain<&'a Memory>;

/// One pass over a queue: `serve` gets chain after chain until there is none, it leaves one, or a
/// full queue of them was taken.
///
/// # Errors
/// [`QueueError`]: the queue is broken.
pub fn pass(
    queue: &mut Queue,
    memory: &Memory,
    mut serve: impl FnMut(Chain<'_>) -> Served,
) -> Result<Outcome, QueueError> {
    let mut outcome = Outcome::default();
    let mut budget = queue.size();
    loop {
        if budget == 0 {
            outcome.more = true;
            break;
        }
        let Some(chain) = queue.iter(memory)?.next() else {
            // Ask for a kick, then look again: the guest may have added before it saw us ask.
            if queue.enable_notification(memory)? {
                budget -= 1;
                continue;
            }
            break;
        };
        let head = chain.head_index();
        match serve(chain) {
            Served::Used(len) => {
                queue.add_used(memory, head, len)?;
                outcome.progress = true;
            }
            Served::Taken => {}
            Served::Left => {
                queue.go_to_previous_position();
                break;
            }
        }
        budget -= 1;
    }
    if outcome.progress {
        outcome.notify = queue.needs_notification(memory)?;
    }
    Ok(outcome)
}
