//! A map that is to say just what the daemon knows.

use std::collections::BTreeMap;

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
};

/// Makes the map say this and nothing else: what is gone is removed first.
pub fn write<K: Pod + Ord, V: Pod + PartialEq>(
    map: &mut HashMap<MapData, K, V>,
    wanted: BTreeMap<K, V>,
) -> Result<(), MapError> {
    let found: BTreeMap<K, V> = map.iter().collect::<Result<_, _>>()?;
    found.keys().filter(|key| !wanted.contains_key(key)).try_for_each(|key| map.remove(key))?;
    wanted
        .into_iter()
        .filter(|(key, value)| found.get(key) != Some(value))
        .try_for_each(|(key, value)| map.insert(key, value, 0))
}
