//! A list whose entries stay where they are, so that a key finds its entry, or nothing, in one step.

/// The place of something in a list, with a number that no other ever had there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    slot: usize,
    pub(super) id: u64,
}

/// A list whose entries stay where they are.
#[derive(Clone, Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<(u64, T)>>,
    free: Vec<usize>,
    next_id: u64,
}

impl<T> Slab<T> {
    /// An empty list with more places than this gives its memory back: one bad minute with a million
    /// waiters must not be paid for until the process ends.
    const WORTH_KEEPING: usize = 1024;

    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            next_id: 1,
        }
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        let id = self.next_id;
        self.next_id += 1;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot] = Some((id, value));
                slot
            }
            None => {
                self.entries.push(Some((id, value)));
                self.entries.len() - 1
            }
        };
        Key { slot, id }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.entries.get_mut(key.slot) {
            Some(Some((id, value))) if *id == key.id => Some(value),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        match self.entries.get(key.slot) {
            Some(Some((id, value))) if *id == key.id => Some(value),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let (_, value) = self.entries[key.slot].take()?;
        self.free.push(key.slot);
        if self.len() == 0 && self.entries.len() > Self::WORTH_KEEPING {
            (self.entries, self.free) = (Vec::new(), Vec::new());
        }
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries.iter().enumerate().filter_map(|(slot, entry)| {
            let (id, value) = entry.as_ref()?;
            Some((Key { slot, id: *id }, value))
        })
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().flatten().map(|(_, value)| value)
    }

    /// How many places there are, taken or not.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
