"""Runs the plugin without a daemon: python3 -m unittest"""

import unittest

import cordon
from main import plugin


class Greet(unittest.TestCase):
    def test_greets_by_name(self):
        with cordon.Harness(plugin) as host:
            self.assertEqual(host.call("greet", {"name": "Ada"}), {"text": "Hello, Ada!"})

    def test_says_what_it_wants(self):
        with cordon.Harness(plugin) as host, self.assertRaises(cordon.Error) as caught:
            host.call("greet", {})
        self.assertEqual(caught.exception.code, cordon.INVALID_PARAMS)


if __name__ == "__main__":
    unittest.main()
