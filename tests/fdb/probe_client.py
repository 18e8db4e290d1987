"""Another client of a FoundationDB cluster, straight on the C interface: how long its read versions and reads take."""

import atexit
import ctypes
import threading
import time

import fdb_cluster

API_VERSION = 710
KEYS_COUNT = 64
VALUE = bytes(range(256)) * 16
INTERVAL_S = 0.02

LIBRARY = None


def load():
    """The library with its network running; once for the process."""
    global LIBRARY
    if LIBRARY is not None:
        return LIBRARY
    LIBRARY = ctypes.CDLL(fdb_cluster.find_library())
    pointer = ctypes.c_void_p
    for name, arguments in {
            "create_database": [ctypes.c_char_p, pointer],
            "database_create_transaction": [pointer, pointer],
            "transaction_destroy": [pointer],
            "transaction_get_read_version": [pointer],
            "transaction_get": [pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
            "transaction_set": [pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int],
            "transaction_commit": [pointer],
            "future_block_until_ready": [pointer],
            "future_get_error": [pointer],
            "future_destroy": [pointer]}.items():
        function = getattr(LIBRARY, "fdb_" + name)
        function.argtypes = arguments
        function.restype = pointer if name in ("transaction_get_read_version", "transaction_get", "transaction_commit") else ctypes.c_int
    check(LIBRARY.fdb_select_api_version_impl(API_VERSION, API_VERSION))
    check(LIBRARY.fdb_setup_network())
    network = threading.Thread(target=LIBRARY.fdb_run_network, daemon=True)
    network.start()
    atexit.register(stop, network)
    return LIBRARY


def stop(network):
    """The network ends before the library's own data do."""
    check(LIBRARY.fdb_stop_network())
    network.join()


def check(error):
    if error:
        raise RuntimeError(f"FoundationDB: error {error}")


def wait(future):
    """Until the future is ready; its error, 0 for none."""
    LIBRARY.fdb_future_block_until_ready(future)
    error = LIBRARY.fdb_future_get_error(future)
    LIBRARY.fdb_future_destroy(future)
    return error


class Client:
    """A database, and transactions that nothing is wrapped around."""

    def __init__(self, cluster_file):
        load()
        self.database = ctypes.c_void_p()
        check(LIBRARY.fdb_create_database(str(cluster_file).encode(), ctypes.byref(self.database)))

    def begin(self):
        transaction = ctypes.c_void_p()
        check(LIBRARY.fdb_database_create_transaction(self.database, ctypes.byref(transaction)))
        return transaction

    def write(self, pairs):
        """In one transaction, tried once."""
        transaction = self.begin()
        for key, value in pairs.items():
            LIBRARY.fdb_transaction_set(transaction, key, len(key), value, len(value))
        error = wait(LIBRARY.fdb_transaction_commit(transaction))
        LIBRARY.fdb_transaction_destroy(transaction)
        check(error)


class Probe(threading.Thread):
    """Asks for a read version and reads 4 KiB, again and again, until stop()."""

    def __init__(self, cluster_file):
        super().__init__(daemon=True)
        self.version_times_s, self.read_times_s = [], []
        self.errors = []
        self.stopped = threading.Event()
        self.client = Client(cluster_file)
        self.client.write({self.key(index): VALUE for index in range(KEYS_COUNT)})

    @staticmethod
    def key(index):
        return b"probe/%d" % (index % KEYS_COUNT)

    def run(self):
        index = 0
        while not self.stopped.wait(INTERVAL_S):
            self.ask_once(self.key(index))
            index += 1

    def ask_once(self, key):
        transaction = self.client.begin()
        start = time.monotonic()
        error = wait(LIBRARY.fdb_transaction_get_read_version(transaction))
        given = time.monotonic()
        error = error or wait(LIBRARY.fdb_transaction_get(transaction, key, len(key), 0))
        read = time.monotonic()
        LIBRARY.fdb_transaction_destroy(transaction)
        if error:
            self.errors.append(error)
        else:
            self.version_times_s.append(given - start)
            self.read_times_s.append(read - given)

    def stop(self):
        self.stopped.set()
        self.join()


def percentile(values, percent):
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
