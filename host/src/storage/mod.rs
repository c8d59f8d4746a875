//! Writable layers: sparse ext4 files made from a cached template. Knows no images.
