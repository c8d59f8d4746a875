//! Images: from an archive or a folder to one read-only EROFS disk, content-addressed, shared by
//! all containers of the image. Knows no containers and no VMs.
