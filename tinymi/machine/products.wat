;; The matrix product of a browser's tab, in WebAssembly. products.wasm is this file, assembled.
(module
  (import "env" "memory" (memory 0)) ;; Python's

  ;; out[o, r] = the sum over k of weights[o, k] * rows[r, k], of float32 numbers that lie row by row. Two rows of each
  ;; are multiplied at a time, and four numbers at once: n_out and n_rows are even, and n_in is a multiple of 4.
  (func (export "products")
    (param $weights i32) (param $rows i32) (param $out i32) ;; where they begin
    (param $n_out i32) (param $n_rows i32) (param $n_in i32)
    (local $width i32) (local $height i32) ;; bytes from a row to the next, of weights and rows, and of out
    (local $end_of_weights i32) (local $end_of_rows i32) (local $row i32)
    (local $at_weight i32) (local $at_row i32) (local $stop i32)
    (local $w0 v128) (local $w1 v128) (local $x0 v128) (local $x1 v128)
    (local $s00 v128) (local $s01 v128) (local $s10 v128) (local $s11 v128)

    (local.set $width (i32.shl (local.get $n_in) (i32.const 2)))
    (local.set $height (i32.shl (local.get $n_rows) (i32.const 2)))
    (local.set $end_of_weights (i32.add (local.get $weights) (i32.mul (local.get $width) (local.get $n_out))))
    (local.set $end_of_rows (i32.add (local.get $rows) (i32.mul (local.get $width) (local.get $n_rows))))

    (loop $two_weights
      (local.set $row (local.get $rows))
      (loop $two_rows
        (local.set $s00 (v128.const i32x4 0 0 0 0))
        (local.set $s01 (v128.const i32x4 0 0 0 0))
        (local.set $s10 (v128.const i32x4 0 0 0 0))
        (local.set $s11 (v128.const i32x4 0 0 0 0))
        (local.set $at_weight (local.get $weights))
        (local.set $at_row (local.get $row))
        (local.set $stop (i32.add (local.get $weights) (local.get $width)))
        (loop $four_numbers
          (local.set $w0 (v128.load (local.get $at_weight)))
          (local.set $w1 (v128.load (i32.add (local.get $at_weight) (local.get $width))))
          (local.set $x0 (v128.load (local.get $at_row)))
          (local.set $x1 (v128.load (i32.add (local.get $at_row) (local.get $width))))
          (local.set $s00 (f32x4.add (local.get $s00) (f32x4.mul (local.get $w0) (local.get $x0))))
          (local.set $s01 (f32x4.add (local.get $s01) (f32x4.mul (local.get $w0) (local.get $x1))))
          (local.set $s10 (f32x4.add (local.get $s10) (f32x4.mul (local.get $w1) (local.get $x0))))
          (local.set $s11 (f32x4.add (local.get $s11) (f32x4.mul (local.get $w1) (local.get $x1))))
          (local.set $at_weight (i32.add (local.get $at_weight) (i32.const 16)))
          (local.set $at_row (i32.add (local.get $at_row) (i32.const 16)))
          (br_if $four_numbers (i32.lt_u (local.get $at_weight) (local.get $stop))))
        (f32.store (local.get $out) (call $sum (local.get $s00)))
        (f32.store offset=4 (local.get $out) (call $sum (local.get $s01)))
        (f32.store (i32.add (local.get $out) (local.get $height)) (call $sum (local.get $s10)))
        (f32.store offset=4 (i32.add (local.get $out) (local.get $height)) (call $sum (local.get $s11)))
        (local.set $out (i32.add (local.get $out) (i32.const 8)))
        (local.set $row (i32.add (local.get $row) (i32.shl (local.get $width) (i32.const 1))))
        (br_if $two_rows (i32.lt_u (local.get $row) (local.get $end_of_rows))))
      (local.set $out (i32.add (local.get $out) (local.get $height)))
      (local.set $weights (i32.add (local.get $weights) (i32.shl (local.get $width) (i32.const 1))))
      (br_if $two_weights (i32.lt_u (local.get $weights) (local.get $end_of_weights)))))

  (func $sum (param $four v128) (result f32)
    (f32.add
      (f32.add (f32x4.extract_lane 0 (local.get $four)) (f32x4.extract_lane 1 (local.get $four)))
      (f32.add (f32x4.extract_lane 2 (local.get $four)) (f32x4.extract_lane 3 (local.get $four))))))
