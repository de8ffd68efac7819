"""Local mode: Ray and HAProxy as processes of this machine."""
