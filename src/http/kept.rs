//! The bytes of a body that are kept, by their position: small frames are put together.

use std::collections::VecDeque;
use std::mem;

use bytes::{Bytes, BytesMut};

/// A frame of at least so many bytes is kept as it is; smaller ones are copied together. A piece costs some hundred
/// bytes of its own, which a body in frames of one byte would pay for each byte.
const PIECE: usize = 4 * 1024;

/// A stretch of bytes, from `begin` to `end`.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pieces: VecDeque<Piece>,
    /// Small frames, which come after all pieces.
    tail: BytesMut,
    begin: u64,
    end: u64,
}

#[derive(Debug)]
struct Piece {
    begin: u64,
    bytes: Bytes,
}

/// What is kept no longer. To be dropped where no lock is held: a chunk may be anybody's.
pub(super) type LetGo = Vec<Bytes>;

impl Kept {
    /// The position of the first byte.
    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    pub(super) fn len(&self) -> u64 {
        self.end - self.begin
    }

    /// Keeps what comes next.
    pub(super) fn push(&mut self, data: &Bytes) {
        let is_large = data.len() >= PIECE;
        if is_large || self.tail.len() + data.len() > PIECE {
            self.close_tail();
        }
        match is_large {
            true => self.pieces.push_back(Piece {
                begin: self.end,
                bytes: data.clone(),
            }),
            false => self.tail.extend_from_slice(data),
        }
        self.end += data.len() as u64;
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(Piece {
                begin: self.tail_begin(),
                // As large as it is, and no larger.
                bytes: Bytes::copy_from_slice(&self.tail),
            });
            self.tail.clear();
        }
    }

    fn tail_begin(&self) -> u64 {
        self.end - self.tail.len() as u64
    }

    /// What is kept from this position on, as far as it lies in one piece. Empty if nothing is.
    pub(super) fn from(&self, position: u64) -> Bytes {
        if position < self.begin || position >= self.end {
            return Bytes::new();
        }
        let tail = self.tail_begin();
        if position >= tail {
            return Bytes::copy_from_slice(&self.tail[(position - tail) as usize..]);
        }
        let after = self.pieces.partition_point(|piece| piece.begin <= position);
        match after.checked_sub(1).and_then(|at| self.pieces.get(at)) {
            Some(piece) => piece.bytes.slice((position - piece.begin) as usize..),
            None => Bytes::new(),
        }
    }

    /// Keeps nothing before this position, which is where something that was read ends.
    pub(super) fn cut(&mut self, position: u64) -> LetGo {
        if position >= self.end {
            return self.clear(position);
        }
        let mut let_go = LetGo::new();
        while let Some(piece) = self.pieces.front() {
            if piece.begin + piece.bytes.len() as u64 > position {
                break;
            }
            let_go.extend(self.pieces.pop_front().map(|piece| piece.bytes));
        }
        self.begin = position.max(self.begin);
        let_go
    }

    /// Keeps nothing; what comes next begins at `position`.
    pub(super) fn clear(&mut self, position: u64) -> LetGo {
        self.tail = BytesMut::new();
        (self.begin, self.end) = (position, position);
        let pieces = mem::take(&mut self.pieces);
        pieces.into_iter().map(|piece| piece.bytes).collect()
    }

    #[cfg(test)]
    fn memory(&self) -> usize {
        let piece = |piece: &Piece| size_of::<Piece>() + piece.bytes.len();
        self.pieces.iter().map(piece).sum::<usize>() + self.tail.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_body_in_frames_of_one_byte_takes_as_much_memory_as_one_in_large_frames() {
        let mut kept = Kept::default();
        for _ in 0..64 * 1024 {
            kept.push(&Bytes::from_static(b"x"));
        }
        assert_eq!(kept.len(), 64 * 1024);
        assert!(kept.memory() < 72 * 1024, "{}", kept.memory());
        // The worst: a small one between any two that are large enough to be kept as they are.
        let mut kept = Kept::default();
        for n in 0..32 {
            kept.push(&Bytes::from(vec![0; if n % 2 == 0 { 1 } else { PIECE }]));
        }
        assert!(kept.memory() < 72 * 1024, "{}", kept.memory());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Read(u64),
        Cut(u64),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3 * PIECE).prop_map(Step::Push),
            (0..64usize).prop_map(Step::Push),
            any::<u64>().prop_map(Step::Read),
            any::<u64>().prop_map(Step::Cut),
            Just(Step::Clear),
        ]
    }

    proptest! {
        /// Against one long vector.
        #[test]
        fn what_is_read_is_what_was_kept(steps in prop::collection::vec(step(), 0..60)) {
            let (mut kept, mut all, mut begin) = (Kept::default(), Vec::new(), 0u64);
            for step in steps {
                match step {
                    Step::Push(n) => {
                        let data: Vec<u8> = (0..n).map(|i| (all.len() + i) as u8).collect();
                        kept.push(&Bytes::from(data.clone()));
                        all.extend(data);
                    }
                    Step::Read(at) => {
                        let at = at % (all.len() as u64 + 2);
                        let read = kept.from(at);
                        let known = at >= begin && at < all.len() as u64;
                        prop_assert_eq!(read.is_empty(), !known);
                        if known {
                            let at = at as usize;
                            prop_assert_eq!(&read[..], &all[at..at + read.len()]);
                        }
                    }
                    Step::Cut(at) => {
                        let at = begin + at % (all.len() as u64 - begin + 1);
                        kept.cut(at);
                        begin = at;
                    }
                    Step::Clear => {
                        begin = all.len() as u64;
                        kept.clear(begin);
                    }
                }
                prop_assert_eq!((kept.begin(), kept.len()), (begin, all.len() as u64 - begin));
            }
        }
    }
}
