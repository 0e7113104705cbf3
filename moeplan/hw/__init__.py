"""This machine: NVML, psutil, /proc, sysctl."""
