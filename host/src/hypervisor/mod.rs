//! Virtual machines behind one trait. Knows no OCI, no images: disks are files, the rest numbers.
