//! Keys and the sealing of bytes: HKDF, AES-256-GCM.
