#include "async/blocking_pool.h"

#include <pthread.h>

#include <utility>

namespace fdbnbd {

BlockingPool::BlockingPool(std::string name, size_t threads_count) : name_(std::move(name)) {
  ASSERT(threads_count > 0 && name_.size() <= 15);
  threads_.reserve(threads_count);
  for (size_t i = 0; i < threads_count; ++i) threads_.emplace_back([this] { work(); });
}

BlockingPool::~BlockingPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  submitted_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void BlockingPool::submit(Work& work) {
  {
    const std::lock_guard lock(mutex_);
    ASSERT(!stopping_);
    queue_.push(work);
  }
  submitted_.notify_one();
}

void BlockingPool::work() {
  pthread_setname_np(pthread_self(), name_.c_str());
  std::unique_lock lock(mutex_);
  while (true) {
    submitted_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Work& work = queue_.pop();
    lock.unlock();
    work.run();
    lock.lock();
  }
}

}  // namespace fdbnbd
