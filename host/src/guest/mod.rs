//! The client of the guest agent. Generated protobuf types stop here.
