//! A map with the locks of dashmap, one for each shard, and shuttle in them.

use std::hash::{BuildHasher, Hash};

use shuttle::sync::{RwLock, RwLockWriteGuard};

pub(crate) mod dashmap {
    pub(crate) use super::{DashMap, SharedValue};
}

/// Always the same hashes, so that a failed order can be repeated.
pub(crate) mod foldhash {
    pub(crate) mod quality {
        pub(crate) type RandomState = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;
    }
}

pub(crate) struct DashMap<K, V, S> {
    shards: Vec<Shard<K, V>>,
    hasher: S,
}

pub(crate) struct Shard<K, V>(RwLock<Table<K, V>>);

pub(crate) struct Table<K, V>(Vec<(u64, (K, SharedValue<V>))>);

pub(crate) struct SharedValue<V>(V);

impl<K: Eq + Hash, V, S: BuildHasher> DashMap<K, V, S> {
    pub(crate) fn with_hasher_and_shard_amount(hasher: S, shards: usize) -> Self {
        let shards = std::iter::repeat_with(|| Shard(RwLock::new(Table(Vec::new())))).take(shards).collect();
        Self { shards, hasher }
    }

    pub(crate) fn hash_usize<T: Hash>(&self, of: &T) -> usize {
        self.hasher.hash_one(of) as usize
    }

    pub(crate) fn determine_shard(&self, hash: usize) -> usize {
        hash % self.shards.len()
    }

    pub(crate) fn shards(&self) -> &[Shard<K, V>] {
        &self.shards
    }

    pub(crate) fn remove_if(&self, key: &K, condition: impl FnOnce(&K, &V) -> bool) -> Option<(K, V)> {
        let hash = self.hash_usize(key);
        let mut table = self.shards[self.determine_shard(hash)].write();
        let (found, value) = table.get(hash as u64, |(other, _)| other == key)?;
        if !condition(found, value.get()) {
            return None;
        }
        let (key, value) = table.remove_entry(hash as u64, |(other, _)| other == key)?;
        Some((key, value.0))
    }
}

impl<K, V> Shard<K, V> {
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Table<K, V>> {
        self.0.write().unwrap()
    }
}

impl<K, V> Table<K, V> {
    fn place(&self, hash: u64, mut is_it: impl FnMut(&(K, SharedValue<V>)) -> bool) -> Option<usize> {
        self.0.iter().position(|(other, entry)| *other == hash && is_it(entry))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(
        &self,
        hash: u64,
        is_it: impl FnMut(&(K, SharedValue<V>)) -> bool,
    ) -> Option<&(K, SharedValue<V>)> {
        self.place(hash, is_it).map(|place| &self.0[place].1)
    }

    pub(crate) fn get_mut(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&(K, SharedValue<V>)) -> bool,
    ) -> Option<&mut (K, SharedValue<V>)> {
        self.place(hash, is_it).map(|place| &mut self.0[place].1)
    }

    pub(crate) fn insert(
        &mut self,
        hash: u64,
        entry: (K, SharedValue<V>),
        _: impl Fn(&(K, SharedValue<V>)) -> u64,
    ) {
        self.0.push((hash, entry));
    }

    pub(crate) fn remove_entry(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&(K, SharedValue<V>)) -> bool,
    ) -> Option<(K, SharedValue<V>)> {
        self.place(hash, is_it).map(|place| self.0.remove(place).1)
    }
}

impl<V> SharedValue<V> {
    pub(crate) fn new(value: V) -> Self {
        Self(value)
    }

    pub(crate) fn get(&self) -> &V {
        &self.0
    }

    pub(crate) fn get_mut(&mut self) -> &mut V {
        &mut self.0
    }
}
