//! A list in the order of arrival, whose entries are found and leave in one step, wherever they stand.

/// The place of something in a list, with a number that no other ever had there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    slot: usize,
    pub(super) id: u64,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    id: u64,
    value: T,
    /// Whether it stands in the order, between these two.
    in_order: bool,
    before: Option<Key>,
    behind: Option<Key>,
}

#[derive(Clone, Debug)]
pub(super) struct List<T> {
    places: Vec<Option<Entry<T>>>,
    free: Vec<usize>,
    first: Option<Key>,
    last: Option<Key>,
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
            first: None,
            last: None,
            len: 0,
            next_id: 1,
        }
    }

    /// How many stand in the order.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn first(&self) -> Option<Key> {
        self.first
    }

    /// Adds something at the end.
    pub(super) fn push(&mut self, value: T) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        let key = Key {
            slot,
            id: self.next_id,
        };
        self.next_id += 1;
        self.places[slot] = Some(Entry {
            id: key.id,
            value,
            in_order: true,
            before: self.last,
            behind: None,
        });
        match self.last.and_then(|last| self.entry_mut(last)) {
            Some(last) => last.behind = Some(key),
            None => self.first = Some(key),
        }
        self.last = Some(key);
        self.len += 1;
        key
    }

    fn entry(&self, key: Key) -> Option<&Entry<T>> {
        let entry = self.places.get(key.slot)?.as_ref();
        entry.filter(|entry| entry.id == key.id)
    }

    fn entry_mut(&mut self, key: Key) -> Option<&mut Entry<T>> {
        let entry = self.places.get_mut(key.slot)?.as_mut();
        entry.filter(|entry| entry.id == key.id)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entry_mut(key).map(|entry| &mut entry.value)
    }

    /// Takes something out of the order; its key still finds it.
    pub(super) fn set_aside(&mut self, key: Key) {
        let Some(entry) = self.entry_mut(key).filter(|entry| entry.in_order) else {
            return;
        };
        entry.in_order = false;
        let (before, behind) = (entry.before.take(), entry.behind.take());
        match before.and_then(|key| self.entry_mut(key)) {
            Some(entry) => entry.behind = behind,
            None => self.first = behind,
        }
        match behind.and_then(|key| self.entry_mut(key)) {
            Some(entry) => entry.before = before,
            None => self.last = before,
        }
        self.len -= 1;
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        self.set_aside(key);
        self.entry(key)?;
        let entry = self.places[key.slot].take()?;
        self.free.push(key.slot);
        if self.free.len() == self.places.len() && self.places.len() > Self::WORTH_KEEPING {
            (self.places, self.free) = (Vec::new(), Vec::new());
        }
        Some(entry.value)
    }

    /// What stands in the order, the first first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        std::iter::successors(self.first, |key| self.entry(*key)?.behind)
            .filter_map(|key| Some((key, self.get(key)?)))
    }

    /// Everything, in no order.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places
            .iter_mut()
            .flatten()
            .map(|entry| &mut entry.value)
    }

    /// How many places there are, taken or not.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }
}
