"""Real runs on this machine: micro-benchmarks, reference models, engines, servers. The home of torch."""
