//! Which offloads an interface has turned on, by the names `ethtool -k` shows.

use std::io;

use super::ethtool::{request, text};

/// Commands of include/uapi/linux/ethtool.h: how many strings a set has, the strings, the features.
const SET_SIZE: u32 = 0x37;
const STRINGS: u32 = 0x1b;
const FEATURES: u32 = 0x3a;

/// `ETH_SS_FEATURES`.
const FEATURE_NAMES: u32 = 4;

/// `ETH_GSTRING_LEN` in words.
const NAME_WORDS: usize = 8;

/// The offloads of `names` that are on.
///
/// # Errors
/// If there is no such interface.
pub fn on<'a>(device: &str, names: &[&'a str]) -> io::Result<Vec<&'a str>> {
    // struct ethtool_sset_info: command, reserved, a mask of sets in two words, the size of each.
    let mut size = vec![SET_SIZE, 0, 0, 0, 0];
    let mask = (1_u64 << FEATURE_NAMES).to_ne_bytes();
    for (word, bytes) in size[2..4].iter_mut().zip(mask.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    // SAFETY: one size, for the one set in the mask.
    unsafe { request(device, &mut size) }?;
    let count = size[4] as usize;
    // struct ethtool_gstrings: command, set, how many, and the strings.
    let mut strings = vec![0; 3 + count * NAME_WORDS];
    (strings[0], strings[1], strings[2]) = (STRINGS, FEATURE_NAMES, size[4]);
    // SAFETY: room for as many strings as the set has; it does not grow.
    unsafe { request(device, &mut strings) }?;
    // struct ethtool_gfeatures: command, blocks, and for each available, requested, active, never changed.
    let blocks = count.div_ceil(32);
    let mut features = vec![0; 2 + blocks * 4];
    (features[0], features[1]) = (FEATURES, u32::try_from(blocks).unwrap_or(0));
    // SAFETY: room for as many blocks as are asked for.
    unsafe { request(device, &mut features) }?;
    let is_on = |index: usize| {
        features.get(2 + index / 32 * 4 + 2).is_some_and(|active| active >> (index % 32) & 1 == 1)
    };
    let all = strings[3..].chunks_exact(NAME_WORDS).map(text);
    let active: Vec<_> = all.enumerate().filter(|(index, _)| is_on(*index)).map(|(_, name)| name).collect();
    Ok(names.iter().copied().filter(|name| active.iter().any(|active| active == name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopbacks_offloads_are_read() {
        // Fixed on: "lo" is lockless and has scatter and gather.
        let names = ["tx-scatter-gather", "rx-gro-list", "no-such-offload"];
        assert_eq!(on("lo", &names).unwrap(), ["tx-scatter-gather"]);
        assert!(on("no-such-device", &names).is_err());
    }
}
