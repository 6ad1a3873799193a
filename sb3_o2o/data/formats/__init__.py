"""What datasets are read from: one module for each family of formats. ``sb3_o2o.data.sources`` recognises them."""
