//! Credit of one direction of a connection, virtio 1.2 §5.10.6.3. Counts bytes, holds none.
//! All counters are modulo 2^32, as on the wire.

/// How much we may send to the guest.
#[derive(Debug, Default)]
pub struct SendCredit {
    sent: u32,
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
}

impl SendCredit {
    /// Takes what the guest said last. A guest that claims more than it was sent gets nothing.
    pub fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_buf_alloc = buf_alloc;
        self.peer_fwd_cnt = fwd_cnt;
    }

    /// Bytes that may be sent now.
    #[must_use]
    pub fn available(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(in_flight)
    }

    /// Counts `len` bytes as sent; at most [`Self::available`].
    pub fn spend(&mut self, len: u32) {
        debug_assert!(len <= self.available());
        self.sent = self.sent.wrapping_add(len);
    }
}

/// The guest sent more than it was allowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest sent more than its credit")]
pub struct CreditViolation;

/// How much the guest may send to us.
#[derive(Debug)]
pub struct ReceiveCredit {
    buf_alloc: u32,
    received: u32,
    forwarded: u32,
    told: u32,
}

impl ReceiveCredit {
    /// Credit for a buffer of `buf_alloc` bytes.
    #[must_use]
    pub fn new(buf_alloc: u32) -> Self {
        Self { buf_alloc, received: 0, forwarded: 0, told: 0 }
    }

    /// Counts `len` bytes that came from the guest.
    ///
    /// # Errors
    /// [`CreditViolation`] when they do not fit into the buffer; nothing is counted then.
    pub fn receive(&mut self, len: u32) -> Result<(), CreditViolation> {
        let held = self.received.wrapping_sub(self.forwarded);
        if len > self.buf_alloc - held {
            return Err(CreditViolation);
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// Counts `len` bytes, received before, as gone from the buffer.
    pub fn forward(&mut self, len: u32) {
        debug_assert!(len <= self.received.wrapping_sub(self.forwarded));
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// Whether the guest should be told: a quarter of the buffer became free since it was.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= self.buf_alloc / 4
    }

    /// `(buf_alloc, fwd_cnt)` for the header of a packet that is on its way now.
    pub fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (self.buf_alloc, self.forwarded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn guest_that_claims_more_than_it_was_sent_gets_no_credit() {
        let mut credit = SendCredit::default();
        credit.update(4096, 0);
        credit.spend(100);
        credit.update(4096, 101);
        assert_eq!(credit.available(), 0);
    }

    #[test]
    fn guest_that_shrinks_its_buffer_below_what_is_in_flight_gets_no_credit() {
        let mut credit = SendCredit::default();
        credit.update(4096, 0);
        credit.spend(4096);
        credit.update(1, 0);
        assert_eq!(credit.available(), 0);
    }

    #[test]
    fn violation_is_not_counted() {
        let mut credit = ReceiveCredit::new(8);
        credit.receive(8).unwrap();
        assert_eq!(credit.receive(1), Err(CreditViolation));
        credit.forward(8);
        assert!(credit.is_stale());
        assert_eq!(credit.tell(), (8, 8));
        assert!(!credit.is_stale());
        credit.receive(8).unwrap();
    }

    proptest! {
        /// Two honest ends that start anywhere in the counters' circle: the receiver's buffer
        /// never overflows, and whatever is sent and forwarded comes back as credit.
        #[test]
        fn honest_sender_never_violates_and_never_starves(
            start in any::<u32>(),
            buf_alloc in 4u32..1000,
            steps in proptest::collection::vec((0u32..600, 0u32..600, any::<bool>()), 1..200),
        ) {
            let mut sender = SendCredit { sent: start, peer_buf_alloc: 0, peer_fwd_cnt: start };
            let mut receiver =
                ReceiveCredit { buf_alloc, received: start, forwarded: start, told: start };
            let (alloc, fwd) = receiver.tell();
            sender.update(alloc, fwd);
            let mut held = 0;
            for (send, forward, tell) in steps {
                let send = send.min(sender.available());
                sender.spend(send);
                prop_assert_eq!(receiver.receive(send), Ok(()));
                held += send;
                prop_assert!(held <= buf_alloc);
                let forward = forward.min(held);
                receiver.forward(forward);
                held -= forward;
                if tell || receiver.is_stale() {
                    let (alloc, fwd) = receiver.tell();
                    sender.update(alloc, fwd);
                    prop_assert_eq!(sender.available(), buf_alloc - held);
                }
            }
            receiver.forward(held);
            if sender.available() == 0 {
                prop_assert!(receiver.is_stale());
            }
        }

        #[test]
        fn hostile_counters_never_give_more_than_the_claimed_buffer(
            updates in proptest::collection::vec(any::<(u32, u32)>(), 1..50),
        ) {
            let mut credit = SendCredit::default();
            for (buf_alloc, fwd_cnt) in updates {
                credit.update(buf_alloc, fwd_cnt);
                prop_assert!(credit.available() <= buf_alloc);
                credit.spend(credit.available());
                prop_assert_eq!(credit.available(), 0);
            }
        }
    }
}
