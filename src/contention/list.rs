//! A list in the order of arrival, whose entries are found and leave in one step, wherever they stand.

/// The place of something in a list, with a number that no other ever had there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    slot: usize,
    pub(super) id: u64,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    /// The number of what is here; [`VACANT`] if nothing is.
    id: u64,
    /// Whether it stands in the order, between these two places.
    in_order: bool,
    before: usize,
    behind: usize,
    value: Option<T>,
}

const VACANT: u64 = 0;
/// The place before the first, and behind the last.
const NOWHERE: usize = usize::MAX;

#[derive(Clone, Debug)]
pub(super) struct List<T> {
    places: Vec<Entry<T>>,
    free: Vec<usize>,
    first: usize,
    last: usize,
    len: usize,
    next_id: u64,
}

impl<T> List<T> {
    /// An empty list with more places than this gives its memory back: one bad minute with a million
    /// waiters must not be paid for until the process ends.
    const WORTH_KEEPING: usize = 1024;

    pub(super) const fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            first: NOWHERE,
            last: NOWHERE,
            len: 0,
            next_id: VACANT + 1,
        }
    }

    /// How many stand in the order.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn first(&self) -> Option<Key> {
        self.key_at(self.first)
    }

    fn key_at(&self, slot: usize) -> Option<Key> {
        let id = self.places.get(slot)?.id;
        Some(Key { slot, id })
    }

    /// Adds something at the end.
    #[inline]
    pub(super) fn push(&mut self, value: T) -> Key {
        let id = self.next_id;
        self.next_id += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(Entry {
                id: VACANT,
                in_order: false,
                before: NOWHERE,
                behind: NOWHERE,
                value: None,
            });
            self.places.len() - 1
        });
        // In place, and not as a whole: entries are large, and this is what every permit does.
        let entry = &mut self.places[slot];
        entry.id = id;
        entry.in_order = true;
        entry.before = self.last;
        entry.behind = NOWHERE;
        entry.value = Some(value);
        match self.places.get_mut(self.last) {
            Some(last) => last.behind = slot,
            None => self.first = slot,
        }
        self.last = slot;
        self.len += 1;
        Key { slot, id }
    }

    fn entry_mut(&mut self, key: Key) -> Option<&mut Entry<T>> {
        let entry = self.places.get_mut(key.slot)?;
        (entry.id == key.id).then_some(entry)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let entry = self.places.get(key.slot)?;
        (entry.id == key.id).then_some(entry.value.as_ref())?
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entry_mut(key)?.value.as_mut()
    }

    /// Takes something out of the order; its key still finds it.
    pub(super) fn set_aside(&mut self, key: Key) {
        let Some(entry) = self.entry_mut(key).filter(|entry| entry.in_order) else {
            return;
        };
        entry.in_order = false;
        let (before, behind) = (entry.before, entry.behind);
        match self.places.get_mut(before) {
            Some(entry) => entry.behind = behind,
            None => self.first = behind,
        }
        match self.places.get_mut(behind) {
            Some(entry) => entry.before = before,
            None => self.last = before,
        }
        self.len -= 1;
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        self.set_aside(key);
        let entry = self.entry_mut(key)?;
        entry.id = VACANT;
        let value = entry.value.take();
        self.free.push(key.slot);
        if self.free.len() == self.places.len() && self.places.len() > Self::WORTH_KEEPING {
            (self.places, self.free) = (Vec::new(), Vec::new());
        }
        value
    }

    /// What stands in the order, the first first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        let behind = |key: &Key| self.key_at(self.places.get(key.slot)?.behind);
        std::iter::successors(self.first(), behind).filter_map(|key| Some((key, self.get(key)?)))
    }

    /// Everything, in no order.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places
            .iter_mut()
            .filter_map(|entry| entry.value.as_mut())
    }

    /// How many places there are, taken or not.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }
}
