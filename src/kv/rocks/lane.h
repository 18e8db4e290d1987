#pragma once

#include <pthread.h>

#include <condition_variable>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/function.h"

namespace fdbnbd::kv {

// One thread that takes all that has queued each time it is free, and so does much at once when there is much
// to do.
template <typename Item>
class Lane {
 public:
  using Process = UniqueFunction<void(std::span<Item* const>)>;

  // `process` runs on the lane's thread, with items in order of arrival; the lane does not touch an item
  // after that. `name` has at most 15 bytes.
  Lane(std::string name, Process process)
      : process_(std::move(process)), thread_([this, name = std::move(name)] { work(name); }) {}
  // Processes what is queued first.
  ~Lane() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    submitted_.notify_one();
    thread_.join();
  }

  // Any thread. The owner keeps the item until it was processed.
  void submit(Item& item) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(&item);
    if (queue_.size() == 1) submitted_.notify_one();
  }

 private:
  void work(const std::string& name) {
    pthread_setname_np(pthread_self(), name.c_str());
    std::vector<Item*> items;
    std::unique_lock lock(mutex_);
    while (true) {
      submitted_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      items.clear();
      items.swap(queue_);
      lock.unlock();
      process_(items);
      lock.lock();
    }
  }

  Process process_;
  std::mutex mutex_;
  std::condition_variable submitted_;
  std::vector<Item*> queue_;  // guarded by mutex_
  bool stopping_ = false;     // guarded by mutex_
  std::thread thread_;        // last: it uses all of the above
};

}  // namespace fdbnbd::kv
