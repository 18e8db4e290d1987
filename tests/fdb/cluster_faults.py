"""What befalls the processes of a cluster of several: killed, paused, restarted, one at a time, each role in turn."""

import time

ROLES = ["log", "storage", "commit_proxy", "grv_proxy", "resolver", "master", "cluster_controller", "coordinator", "data_distributor", "ratekeeper"]
# A paused process is taken for dead meanwhile.
PAUSE_S = (5.5, 8)
DOWN_S = (0, 3)
HEALTHY_WITHIN_S = 240


class Faults:
    """`chance` draws what happens."""

    def __init__(self, cluster, chance):
        self.cluster, self.chance = cluster, chance
        self.roles = []   # those that are still to be hit before any is hit again

    def one(self):
        """Does one thing to one process and returns once the cluster is whole again; what it was, as text."""
        if not self.roles:
            self.roles = self.chance.sample(ROLES, len(ROLES))
        role = self.roles.pop()
        process = self.chance.choice(self.cluster.roles()[role])
        what = self.chance.choice([self.kill, self.pause, self.terminate])
        what(process)
        self.cluster.wait_until_healthy(HEALTHY_WITHIN_S)
        return f"{what.__name__} {role} ({process.address})"

    def kill(self, process):
        process.kill()
        time.sleep(self.chance.uniform(*DOWN_S))
        process.start()

    def terminate(self, process):
        process.terminate()
        time.sleep(self.chance.uniform(*DOWN_S))
        process.start()

    def pause(self, process):
        process.pause()
        time.sleep(self.chance.uniform(*PAUSE_S))
        process.resume()
