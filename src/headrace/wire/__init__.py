"""Sans-I/O codecs: bytes ⇄ types. Nothing here opens a socket or waits."""
