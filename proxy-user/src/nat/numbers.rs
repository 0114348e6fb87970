//! The numbers by which the kernel knows the routes: pure. Flows outlive the daemon and are known by their route's number,
//! so a route keeps the one that its name had, wherever it stands in the configuration now.

use std::collections::BTreeSet;

/// A number for each route, where `left` are the names that an earlier daemon gave to the numbers; empty: to none. A
/// number that was another's is given away only when there is no other left.
pub fn numbers(routes: &[String], left: &[String]) -> Vec<u32> {
    let had = |name: &String| left.iter().position(|left| left == name);
    let mut free: BTreeSet<(bool, usize)> = (0..left.len().max(routes.len()))
        .map(|number| (left.get(number).is_some_and(|name| !name.is_empty()), number))
        .collect();
    for number in routes.iter().filter_map(had) {
        free.remove(&(true, number));
    }
    let number = |name: &String| had(name).or_else(|| free.pop_first().map(|(_, number)| number));
    routes.iter().map(number).map(|number| number.unwrap_or_default() as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn without_another_daemon_they_count_from_nought() {
        assert_eq!(numbers(&left(&["a", "b", "c"]), &[]), [0, 1, 2]);
        assert_eq!(numbers(&left(&["a", "b"]), &left(&["", "", ""])), [0, 1]);
    }

    #[test]
    fn a_name_keeps_its_number() {
        assert_eq!(numbers(&left(&["b", "a"]), &left(&["a", "b", ""])), [1, 0]);
        assert_eq!(numbers(&left(&["c", "b", "a"]), &left(&["a", "b", ""])), [2, 1, 0]);
    }

    #[test]
    fn a_number_that_was_another_s_comes_last() {
        assert_eq!(numbers(&left(&["c", "b"]), &left(&["a", "b", ""])), [2, 1]);
        assert_eq!(numbers(&left(&["c", "d", "b"]), &left(&["a", "b", ""])), [2, 0, 1]);
        assert_eq!(numbers(&left(&["c"]), &left(&["a"])), [0]);
    }
}
