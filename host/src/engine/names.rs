//! Random ids, and names for containers that were given none: an adjective and a shell.

use std::fs::File;
use std::io::{self, Read};

use husk_protocols::id::ContainerId;

const ADJECTIVES: [&str; 32] = [
    "amber", "brave", "brisk", "calm", "clever", "coral", "crisp", "dapper", "eager", "fair",
    "gentle", "glad", "golden", "hardy", "keen", "kind", "light", "lively", "lucid", "mellow",
    "mild", "neat", "noble", "plain", "proud", "quick", "quiet", "sharp", "steady", "sunny",
    "swift", "warm",
];

const SHELLS: [&str; 32] = [
    "abalone",
    "acorn",
    "almond",
    "barley",
    "cashew",
    "chestnut",
    "clam",
    "cockle",
    "coconut",
    "conch",
    "cowrie",
    "filbert",
    "hazel",
    "hickory",
    "limpet",
    "maize",
    "millet",
    "mussel",
    "nautilus",
    "oat",
    "oyster",
    "peanut",
    "pecan",
    "pistachio",
    "quahog",
    "rice",
    "scallop",
    "sorghum",
    "spelt",
    "walnut",
    "wheat",
    "whelk",
];

/// A new id: 32 random bytes in hex.
pub fn random_id() -> io::Result<ContainerId> {
    let text: String = random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(text.parse().expect("hex digits are an id"))
}

/// A name like `calm_walnut_3f`. Unlikely to be taken; whoever takes it finds out.
pub fn random_name() -> io::Result<String> {
    let [a, b, c] = random::<3>()?;
    let adjective = ADJECTIVES[usize::from(a) % ADJECTIVES.len()];
    let shell = SHELLS[usize::from(b) % SHELLS.len()];
    Ok(format!("{adjective}_{shell}_{c:02x}"))
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
