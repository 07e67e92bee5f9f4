//! A list in the order of arrival, whose entries are found and leave in one step, wherever they stand.

/// The place of something in a list, with a number that no other ever had there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    slot: usize,
    pub(super) id: u64,
}

/// So many lists at most have numbers that tell which of them something is in.
pub(super) const MOST_LISTS: usize = 64;

impl Key {
    /// The number of the list.
    #[inline]
    pub(super) fn list(self) -> usize {
        self.id as usize % MOST_LISTS
    }
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

const VACANT: u64 = u64::MAX;
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

    /// The list with this number, empty.
    pub(super) const fn new(list: usize) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            first: NOWHERE,
            last: NOWHERE,
            len: 0,
            next_id: (list % MOST_LISTS) as u64,
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
    #[inline(always)]
    pub(super) fn push(&mut self, value: T) -> Key {
        let id = self.next_id;
        self.next_id += MOST_LISTS as u64;
        let slot = self.free.pop().unwrap_or_else(|| self.new_place());
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

    #[cold]
    #[inline(never)]
    fn new_place(&mut self) -> usize {
        self.places.push(Entry {
            id: VACANT,
            in_order: false,
            before: NOWHERE,
            behind: NOWHERE,
            value: None,
        });
        self.places.len() - 1
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
    #[inline(always)]
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
        let value = self.entry_mut(key)?.value.take();
        self.vacate(key);
        value
    }

    /// Like [`remove`](Self::remove), for what is not to be carried around: it is looked at and dropped where it
    /// stands.
    #[inline(always)]
    pub(super) fn remove_with<R>(&mut self, key: Key, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.set_aside(key);
        let entry = self.entry_mut(key)?;
        let looked = entry.value.as_ref().map(look);
        entry.value = None;
        self.vacate(key);
        looked
    }

    #[inline(always)]
    fn vacate(&mut self, key: Key) {
        self.places[key.slot].id = VACANT;
        self.free.push(key.slot);
        if self.free.len() == self.places.len() && self.places.len() > Self::WORTH_KEEPING {
            (self.places, self.free) = (Vec::new(), Vec::new());
        }
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
