from tests.run.conftest import bench

__all__ = ["bench"]
