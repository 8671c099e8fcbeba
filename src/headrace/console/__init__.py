"""Pages for people: server-rendered, hand-written JavaScript, no build step, one origin."""
