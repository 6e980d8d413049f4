;; A valid core module and no component: deploy must say so.
(module
  (func (export "handle") (param i32 i32)))
