//! The life of sandboxes: records on disk, one monitor process each, the road from create to exit.
